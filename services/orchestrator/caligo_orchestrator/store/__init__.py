"""What a campaign keeps on disk: the journal that makes results durable, and the HDF5 file that users read."""
