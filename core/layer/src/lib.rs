//! Image layers as data: a file tree and a chunk map, whatever the format. No I/O.
