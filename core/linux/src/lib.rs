//! Linux mounts, idmapping, kernel probes: the only unsafe code.
