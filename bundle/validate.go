package bundle

// Validate checks what can be checked without an image and a host.
func (o Options) Validate() error { return nil }
