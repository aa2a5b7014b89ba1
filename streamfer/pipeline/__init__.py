"""From frames to labelled clips: analysis, the feature ring, windows, batches, the loop."""
