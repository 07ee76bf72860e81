# Which products, why, with what recipe; writes the manifest that everything else is built from.
# No declared output or benchmark: the plan of before stays until the new one is complete, and asking for a plan always makes one.


rule plan:
    log:
        text=local(f"{LOGS}/plan.log"),
    conda:
        CONDA
    threads: 1
    resources:
        mem_mb=1000,
        disk_mb=100,
    message:
        f"plan: products of {SETTINGS.source.catalogue}"
    script:
        "../scripts/plan.py"
