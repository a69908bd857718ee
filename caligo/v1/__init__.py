"""Generated from `protos/caligo/v1` by `make protos`; never edited by hand."""
