"""``python -m iocs.sacla`` starts the IOC."""

from iocs.sacla.ioc import main

if __name__ == "__main__":
    main()
