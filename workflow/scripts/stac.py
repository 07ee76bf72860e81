"""Entry point of the rule ``stac``."""

from zarrmill.io.places import place_of
from zarrmill.io.record import read_record
from zarrmill.job import product_job
from zarrmill.model import ConvertReceipt, ValidationReport

if __name__ == "__main__" and "snakemake" in globals():
    with product_job("stac", plan=snakemake.input.plan, config=snakemake.config, log=snakemake.log.text) as job:
        from zarrmill.stages.stac import stac, write_item

        receipt = read_record(ConvertReceipt, place_of(snakemake.input.receipt))
        report = read_record(ValidationReport, place_of(snakemake.input.report))
        item = stac(job.record, receipt, report, settings=job.settings, recipe=job.recipe, state=job.state)
        write_item(item, place_of(snakemake.output.item))
