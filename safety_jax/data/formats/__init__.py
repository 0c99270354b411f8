"""Row formats, one module a family; `catalogue.py` lists them all and recognises one by columns."""
