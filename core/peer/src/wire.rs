//! HAVE and chunks over HTTP/1.1.
