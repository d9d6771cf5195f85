//! Tests of Pontoon under real containerd and Docker.
