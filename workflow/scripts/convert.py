"""Entry point of the rule ``convert``."""

from zarrmill.io.places import place_of
from zarrmill.io.record import write_record
from zarrmill.job import product_job

if __name__ == "__main__" and "snakemake" in globals():
    with product_job("convert", plan=snakemake.input.plan, config=snakemake.config, log=snakemake.log.text) as job:
        from zarrmill.stages.convert import convert

        receipt = convert(
            job.product,
            recipe=job.recipe,
            store_root=job.settings.store_root,
            threads=snakemake.threads,
            attempt=job.attempt,
            on_progress=job.tick,
            fetch=job.settings.source,
        )
        write_record(receipt, place_of(snakemake.output.receipt))
