# What the store, its receipt and its report say, as a STAC item; once a run the collections and the static catalogue.


rule stac:
    input:
        plan=ancient(f"{ROOT}/{{collection}}/{{day}}/plan/{{product}}.json"),
        receipt=f"{ROOT}/{{collection}}/{{day}}/convert/{{product}}.json",
        report=f"{ROOT}/{{collection}}/{{day}}/validate/{{product}}.json",
    output:
        item=f"{ROOT}/{{collection}}/{{day}}/stac/{{product}}.json",
    log:
        text=local(f"{LOGS}/stac/{{collection}}/{{day}}/{{product}}.log"),
    benchmark:
        f"{ROOT}/benchmarks/stac/{{collection}}/{{day}}/{{product}}.tsv"
    priority: 2
    group:
        "item"
    conda:
        CONDA
    threads: 1
    resources:
        mem_mb=500,
        disk_mb=100,
    params:
        item=item_digest,
    message:
        "stac: {wildcards.product}"
    script:
        "../scripts/stac.py"


rule stac_catalog:
    input:
        stac_items=unread(targets("stac")),
    output:
        catalog=f"{ROOT}/catalog/catalog.json",
    log:
        text=local(f"{LOGS}/stac_catalog.log"),
    benchmark:
        f"{ROOT}/benchmarks/stac_catalog.tsv"
    conda:
        CONDA
    threads: 1
    resources:
        mem_mb=1000,
        disk_mb=100,
    message:
        "stac: catalogue of the run"
    script:
        "../scripts/stac_catalog.py"
