package conntracksync

// ParseFrame decodes b into the given frame, whose memory it re-uses and of
// which nothing else stays. Records and frames of unknown types and bytes after
// the known fields of a record are skipped, so that newer versions can add them.
// The error is a *[ParseError]; the frame is empty then.
func ParseFrame(b []byte, into *Frame) error { return nil }
