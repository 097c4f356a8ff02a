"""``pvmmio compare``: the same doorbell rings over every route, side by side."""

from .command import add_arguments, main
from .measure import Row, measure
from .routes import Cell, cells

__all__ = ["Cell", "Row", "add_arguments", "cells", "main", "measure"]
