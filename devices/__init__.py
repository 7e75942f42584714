"""ophyd devices over PVs."""
