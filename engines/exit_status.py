"""Exit statuses of every command; `saferedir --help` lists them."""

DONE = 0
FAILED = 2  # one line on standard error says why
REFUSED = 3  # generate: an image was refused; those that were not are written
INTERRUPTED = 130  # from the keyboard
BROKEN_PIPE = 141  # what read the output has ended, as `head` does
