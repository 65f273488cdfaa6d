"""From raw rows to rows to train on: the rules download to bucket, their readers, ledger and answers."""
