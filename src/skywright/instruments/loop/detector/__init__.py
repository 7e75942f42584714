"""Loop detection by one network: `model` runs it, `readout` turns its maps into a `Detection`."""
