"""What networks are assembled from: embeddings, positions, blocks, windows and decoders."""
