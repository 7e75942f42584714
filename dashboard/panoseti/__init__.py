"""The page of PANOSETI: live images of the modules, and the flash candidates of the newest run."""
