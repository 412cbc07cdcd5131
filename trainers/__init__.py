"""Methods, one a file. A file that is added here is a trainer that can be named."""
