"""`python -m ASCONDenoiseLib.worker`: the child process."""

from ASCONDenoiseLib.worker.server import main

if __name__ == "__main__":
    main()
