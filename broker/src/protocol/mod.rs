//! Wire formats: frames, the produce and fetch hot paths, and the advertised API table.
