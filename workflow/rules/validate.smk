# An independent reading of the sealed store; the gate. A verdict below the recipe's fails the job, so no item is made.


rule validate:
    input:
        plan=ancient(f"{ROOT}/{{collection}}/{{day}}/plan/{{product}}.json"),
        receipt=f"{ROOT}/{{collection}}/{{day}}/convert/{{product}}.json",
    output:
        report=f"{ROOT}/{{collection}}/{{day}}/validate/{{product}}.json",
    log:
        text=local(f"{LOGS}/validate/{{collection}}/{{day}}/{{product}}.log"),
    benchmark:
        f"{ROOT}/benchmarks/validate/{{collection}}/{{day}}/{{product}}.tsv"
    # A product that was begun is finished before another is begun.
    priority: 1
    group:
        "item"
    conda:
        CONDA
    threads: SETTINGS.threads
    resources:
        mem_mb=memory_mb,
        disk_mb=validate_disk_mb,
    params:
        validation=validation_digest,
    message:
        "validate: {wildcards.product}"
    script:
        "../scripts/validate.py"
