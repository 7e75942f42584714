"""The camera and the detector as other systems' clients know them."""
