"""What clients see: the campaign service, who may call it and how much, lists, streams and downloads."""
