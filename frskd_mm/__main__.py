"""``python -m frskd_mm COMMAND ...``, which launchers such as torchrun can start."""

from frskd_mm.commands.main import main

if __name__ == '__main__':
    main()
