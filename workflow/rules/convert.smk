# One product becomes one sealed store; the receipt stands for it. The store itself is never a declared output:
# Snakemake deletes outputs before a job and after a failure, which would unseal a live product.


rule convert:
    input:
        plan=ancient(f"{ROOT}/{{collection}}/{{day}}/plan/{{product}}.json"),
    output:
        receipt=f"{ROOT}/{{collection}}/{{day}}/convert/{{product}}.json",
    log:
        text=local(f"{LOGS}/convert/{{collection}}/{{day}}/{{product}}.log"),
    benchmark:
        f"{ROOT}/benchmarks/convert/{{collection}}/{{day}}/{{product}}.tsv"
    group:
        "item"
    conda:
        CONDA
    threads: SETTINGS.threads
    resources:
        mem_mb=memory_mb,
        disk_mb=convert_disk_mb,
    message:
        "convert: {wildcards.product}"
    script:
        "../scripts/convert.py"
