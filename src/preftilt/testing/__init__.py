"""Shipped with the package so that plugin authors can use them: a toy model and the executable engine laws."""
