"""Entry point of the rule ``validate``."""

from zarrmill.io.places import place_of
from zarrmill.io.process import spare_imports
from zarrmill.io.record import read_record, write_record
from zarrmill.job import check_accepted, product_job
from zarrmill.model import ConvertReceipt

if __name__ == "__main__" and "snakemake" in globals():
    with product_job("validate", plan=snakemake.input.plan, config=snakemake.config, log=snakemake.log.text) as job:
        from zarrmill.io.readers import SPARED
        from zarrmill.stages.validate import validate

        spare_imports(*SPARED)

        receipt = read_record(ConvertReceipt, place_of(snakemake.input.receipt))
        report = validate(
            receipt.store,
            source=job.product.href,
            recipe=job.recipe,
            product=job.product,
            threads=snakemake.threads,
            on_progress=job.tick,
            fetch=job.settings.source,
        )
        check_accepted(report, job.recipe, job.product)
        write_record(report, place_of(snakemake.output.report))
