"""What everything stands on: the console and its errors, files that are whole, bounded readers, downloads, images."""
