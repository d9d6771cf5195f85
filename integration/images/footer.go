package main

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"hash"
	"io"

	"github.com/containerd/stargz-snapshotter/estargz"
	"github.com/opencontainers/go-digest"
)

// oldFooter writes eStargz with the 47-byte footer of its predecessor, stargz, which
// readers still meet and no tool writes any more.
type oldFooter struct {
	*estargz.GzipCompressor
	*estargz.LegacyGzipDecompressor
}

func newOldFooter() estargz.Compression {
	return oldFooter{estargz.NewGzipCompressor(), &estargz.LegacyGzipDecompressor{}}
}

// WriteTOCAndFooter writes what eStargz does, but for the footer: an empty gzip member
// whose extra field is the offset and the magic, without a subfield's header.
func (o oldFooter) WriteTOCAndFooter(w io.Writer, off int64, toc *estargz.JTOC, diff hash.Hash) (digest.Digest, error) {
	var tail bytes.Buffer
	tocDigest, err := o.GzipCompressor.WriteTOCAndFooter(&tail, off, toc, diff)
	if err != nil {
		return "", err
	}
	tail.Truncate(tail.Len() - estargz.FooterSize)
	member, err := gzip.NewWriterLevel(&tail, gzip.NoCompression)
	if err != nil {
		return "", err
	}
	member.Extra = fmt.Appendf(nil, "%016xSTARGZ", off)
	if err := member.Close(); err != nil {
		return "", err
	}
	_, err = tail.WriteTo(w)
	return tocDigest, err
}
