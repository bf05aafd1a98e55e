package layer

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/opencontainers/go-digest"
)

const (
	// RecordName is the file beside a layer's tree that says that the tree is
	// complete. It is the last thing that is written.
	RecordName = "layer.json"
	// TreeName is the directory beside it that overlay takes as lower layer.
	TreeName = "fs"

	recordVersion = 1
)

// Record describes one unpacked layer.
type Record struct {
	Version int           `json:"version"`
	DiffID  digest.Digest `json:"diffID"`
	// Chain is set if the tree took something from the layers below, and is
	// then good above these only: the chain ID of this layer (image-spec,
	// config.md).
	Chain   digest.Digest `json:"chain,omitempty"`
	Size    int64         `json:"size"` // bytes of regular files
	Entries int64         `json:"entries"`
	Created time.Time     `json:"created"`
}

// WriteRecord writes the record into the layer's directory.
func WriteRecord(dir string, rec Record) error {
	rec.Version = recordVersion
	b, err := json.Marshal(rec)
	if err != nil {
		return fmt.Errorf("encode layer record: %w", err)
	}
	if err := os.WriteFile(filepath.Join(dir, RecordName), append(b, '\n'), 0o644); err != nil {
		return fmt.Errorf("write layer record: %w", err)
	}
	return nil
}

// ReadRecord reads the record of a layer's directory and judges it. The error
// is fs.ErrNotExist if the layer is not there or not complete.
func ReadRecord(dir string) (Record, error) {
	var rec Record
	b, err := os.ReadFile(filepath.Join(dir, RecordName))
	if err != nil {
		return rec, fmt.Errorf("read layer record: %w", err)
	}
	if err := json.Unmarshal(b, &rec); err != nil {
		return rec, fmt.Errorf("decode layer record in %s: %w", dir, err)
	}
	if rec.Version != recordVersion {
		return rec, fmt.Errorf("layer record in %s has version %d; this program knows %d", dir, rec.Version, recordVersion)
	}
	if rec.DiffID.Validate() != nil || rec.Size < 0 {
		return rec, errors.New("layer record in " + dir + " makes no sense")
	}
	return rec, nil
}
