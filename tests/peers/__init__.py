"""Exchange, training and the study beside the real libraries, in an environment of their own: `make test-peers`."""
