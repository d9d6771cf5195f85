//! The overlay engine: the only overlay code, and the layer provider seam.
