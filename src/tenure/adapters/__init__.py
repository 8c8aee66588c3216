"""One folder per foreign engine; foreign errors are translated here."""
