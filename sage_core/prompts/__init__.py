"""The words of every prompt: what kind of thing a concept is, which templates it goes into, which article it takes."""
