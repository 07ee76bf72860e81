"""Numbers and arrays in, numbers and arrays out: no file, no network, no zarr."""
