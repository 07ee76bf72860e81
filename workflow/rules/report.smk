# The report of the run; of a run that failed, onerror in common.smk writes it. It links to the catalogue and reads nothing of it,
# so it is not made to wait for it: at the end of a run both are at work at once.


rule report:
    input:
        receipts=unread(targets("convert")),
        reports=unread(targets("validate")),
        stac_items=unread(targets("stac")),
    output:
        report=report(
            f"{ROOT}/report/index.html", category="run", caption="../report/run.rst"
        ),
        summary=f"{ROOT}/summary.json",
    log:
        text=local(f"{LOGS}/report.log"),
    benchmark:
        f"{ROOT}/benchmarks/report.tsv"
    conda:
        CONDA
    threads: 1
    resources:
        mem_mb=1000,
        disk_mb=100,
    message:
        "report: the run"
    script:
        "../scripts/report.py"
