"""``python -m iocs.axis`` starts the IOC of the AXIS video camera."""

from iocs.loop.axis import main

if __name__ == "__main__":
    main()
