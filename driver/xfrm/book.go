package xfrm

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"ipsecagent/sadb"
)

// book keeps on disk what the kernel does not know of policies and states: the
// filters they stand for. Keys are never in it. It is written before the
// kernel is told, so that what is found in the kernel is found in the book.
type book struct {
	dir string
}

// page is the filters' part of the book.
type page struct {
	Filters  []sadb.Filter
	Overlays []sadb.Filter
	Places   map[string]standing
	ReqIDs   map[sadb.FilterID]uint32
}

const (
	filtersFile = "filters.json"
	saPrefix    = "sa-"
	fileMode    = 0o600
	dirMode     = 0o700
)

func (e *engine) page(filters, overlays []sadb.Filter, l *list) page {
	p := page{Filters: filters, Overlays: overlays, Places: map[string]standing{}, ReqIDs: e.reqids.of}
	for _, it := range l.items {
		p.Places[it.name] = standing{it.priority, it.variant}
	}
	return p
}

func (b book) saveFilters(p page) error { return b.write(filtersFile, p) }

// loadFilters returns the zero page where there is no book yet.
func (b book) loadFilters() (p page, err error) {
	err = b.read(filtersFile, &p)
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	return p, err
}

// savedSA is an association without its keys: the outer fields hide those of
// the embedded one.
type savedSA struct {
	sadb.SA
	EncKey, AuthKey *struct{} `json:",omitempty"`
	Added           time.Time
	Stamp           int64
}

func saFile(id sadb.SAID) string {
	return fmt.Sprintf("%s%d-%08x-%s.json", saPrefix, id.Proto, uint32(id.SPI), id.Dst)
}

func (b book) saveSA(a *association) error {
	return b.write(saFile(a.SA.ID), savedSA{SA: a.SA, Added: a.Added, Stamp: a.stamp})
}

func (b book) dropSA(id sadb.SAID) error {
	err := os.Remove(filepath.Join(b.dir, saFile(id)))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// loadSAs returns the associations of the book in no order: with an error, those
// that can be read.
func (b book) loadSAs() ([]*association, error) {
	entries, err := os.ReadDir(b.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var out []*association
	var errs []error
	for _, f := range entries {
		if !strings.HasPrefix(f.Name(), saPrefix) || strings.HasSuffix(f.Name(), newSuffix) {
			continue
		}
		var s savedSA
		if err := b.read(f.Name(), &s); err != nil {
			errs = append(errs, err)
			continue
		}
		out = append(out, &association{SA: s.SA, Added: s.Added, stamp: s.Stamp})
	}
	return out, errors.Join(errs...)
}

const newSuffix = ".new"

// write replaces a file as a whole. It need not survive the kernel, so it is
// not forced to disk.
func (b book) write(name string, v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	if err := os.MkdirAll(b.dir, dirMode); err != nil {
		return err
	}
	path := filepath.Join(b.dir, name)
	if err := os.WriteFile(path+newSuffix, data, fileMode); err != nil {
		return err
	}
	return os.Rename(path+newSuffix, path)
}

func (b book) read(name string, v any) error {
	path := filepath.Join(b.dir, name)
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(data, v); err != nil {
		return fmt.Errorf("%s is damaged: %w", path, err)
	}
	return nil
}
