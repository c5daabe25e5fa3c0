package xfrm

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
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
	Edition  uint64 // groupPages of another one are void
	// Marks are those by which policies in force are known: Config.Exempt of
	// this process and, until theirs have gone, of earlier ones.
	Marks []uint32
}

// groupPage says of one group what has changed since its page was written.
type groupPage struct {
	Edition  uint64
	Group    sadb.FilterID
	Overlays []sadb.Filter
	Places   map[string]standing
	ReqIDs   map[sadb.FilterID]uint32
}

const (
	filtersFile = "filters.json"
	saPrefix    = "sa-"
	groupPrefix = "group-"
	fileMode    = 0o600
	dirMode     = 0o700
)

// page writes down a list of filters and overlays, in an edition of its own.
func (e *engine) page(filters, overlays []sadb.Filter, l *list) page {
	e.edition++
	return page{Filters: filters, Overlays: overlays, Places: placesOf(l.items), ReqIDs: e.reqids.of, Edition: e.edition, Marks: e.marksInForce()}
}

// marksInForce returns the marks of Config.Exempt and of the policies in force.
func (e *engine) marksInForce() []uint32 {
	out := []uint32{e.cfg.Exempt}
	for k := range e.have {
		if m := k.mark.Mask &^ variantBits; !slices.Contains(out, m) {
			out = append(out, m)
		}
	}
	return out
}

func (e *engine) groupPage(group sadb.FilterID, overlays []sadb.Filter, items []*item) groupPage {
	p := groupPage{Edition: e.edition, Group: group, Overlays: overlaysOf(group, overlays), Places: placesOf(items), ReqIDs: map[sadb.FilterID]uint32{}}
	for _, it := range items {
		p.ReqIDs[it.root] = it.reqid
	}
	return p
}

func placesOf(items []*item) map[string]standing {
	out := make(map[string]standing, len(items))
	for _, it := range items {
		out[it.name] = standing{it.priority, it.variant}
	}
	return out
}

// saveFilters writes a page. Those of groups of an earlier edition are void from
// then on and are removed.
func (b book) saveFilters(p page) error {
	if err := b.write(filtersFile, p); err != nil {
		return err
	}
	return b.each(groupPrefix, func(name string) error { return os.Remove(filepath.Join(b.dir, name)) })
}

func (b book) saveGroup(p groupPage) error {
	return b.write(fmt.Sprintf("%s%x.json", groupPrefix, sha256.Sum256([]byte(p.Group))), p)
}

// loadFilters returns the zero page where there is no book yet.
func (b book) loadFilters() (p page, err error) {
	if err = b.read(filtersFile, &p); errors.Is(err, fs.ErrNotExist) {
		return page{}, nil
	}
	if err == nil {
		err = b.each(groupPrefix, func(name string) error { return b.loadGroup(name, &p) })
	}
	return p, err
}

// loadGroup puts what a group's page says into p.
func (b book) loadGroup(name string, p *page) error {
	var g groupPage
	if err := b.read(name, &g); err != nil || g.Edition != p.Edition {
		return err
	}
	p.Overlays = slices.DeleteFunc(p.Overlays, func(o sadb.Filter) bool { return o.Parent == g.Group })
	p.Overlays = append(p.Overlays, g.Overlays...)
	maps.Copy(p.Places, g.Places)
	maps.Copy(p.ReqIDs, g.ReqIDs)
	return nil
}

// each calls f for each file of a kind, to the end or the first error.
func (b book) each(prefix string, f func(name string) error) error {
	entries, err := os.ReadDir(b.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	for _, entry := range entries {
		if err == nil && strings.HasPrefix(entry.Name(), prefix) && !strings.HasSuffix(entry.Name(), newSuffix) {
			err = f(entry.Name())
		}
	}
	return err
}

// savedSA is an association without its keys: the outer fields hide those of
// the embedded one.
type savedSA struct {
	sadb.SA
	EncKey, AuthKey *struct{} `json:",omitempty"`
	Added           time.Time
	Stamp           int64
	Root            sadb.FilterID
}

func saFile(id sadb.SAID) string {
	return fmt.Sprintf("%s%d-%08x-%s.json", saPrefix, id.Proto, uint32(id.SPI), id.Dst)
}

func (b book) saveSA(a *association) error {
	return b.write(saFile(a.SA.ID), savedSA{SA: a.SA, Added: a.Added, Stamp: a.stamp, Root: a.root})
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
	var out []*association
	var damaged []error
	err := b.each(saPrefix, func(name string) error {
		var s savedSA
		if err := b.read(name, &s); err != nil {
			damaged = append(damaged, err)
			return nil
		}
		out = append(out, &association{SA: s.SA, Added: s.Added, stamp: s.Stamp, root: s.Root})
		return nil
	})
	return out, errors.Join(append(damaged, err)...)
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
