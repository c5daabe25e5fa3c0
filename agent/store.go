package agent

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"runtime/debug"
	"time"

	"go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"

	"ipsecagent/sadb"
)

// openTimeout is how long a second agent on the same state file waits before
// it is told so.
const openTimeout = 2 * time.Second

// store is the state that outlives the process, in one bbolt file: what is
// assigned, the last policy that was good, and the pairs of associations
// without any key.
type store struct {
	db *bbolt.DB
}

// assignment is what an administrator assigned to this host. Name "" means
// that none is, said on purpose.
type assignment struct {
	Name string `json:"name"`
	// Auth replaces the authentication of every rule: "" leaves it, else as
	// in control.AssignRequest.
	Auth string `json:"auth,omitempty"`
	// Compat: the predefined policy as that system has it; "": the modern one.
	Compat string `json:"compat,omitempty"`
	// From says that it is not the administrator's of this host: fromDirectory
	// or fromPersistent. Such a one is never kept as what is assigned.
	From string `json:"from,omitempty"`
}

// lastGood is the last policy that was put in force, as a document, for the
// day its source does not load.
type lastGood struct {
	Name     string    `json:"name"`
	Auth     string    `json:"auth,omitempty"`
	Compat   string    `json:"compat,omitempty"`
	Origin   string    `json:"origin"`
	Document []byte    `json:"document"`
	Applied  time.Time `json:"applied"`
}

// kept is everything the store holds.
type kept struct {
	Assigned *assignment // nil: never said
	Last     *lastGood
	// Domain is the last policy that a directory assigned; nil: none.
	Domain *lastGood
	Pairs  []sadb.Pair
	// Previous is one step back from what was applied, Pending what waited to
	// be confirmed; nil: nothing.
	Previous *previous
	Pending  *pendingMark
	// Reports is what report mode has let pass; nil: nothing.
	Reports *keptReports
	// Lookups is what names and sets stood for; nil: nothing is known.
	Lookups *lookups
	// Modern is when each of some identities was last met with modern methods.
	Modern map[string]time.Time
}

func stateBucket() []byte  { return []byte("state") }
func pairsBucket() []byte  { return []byte("pairs") }
func modernBucket() []byte { return []byte("modern") }
func assignedKey() []byte  { return []byte("assigned") }
func lastGoodKey() []byte  { return []byte("last-good") }
func previousKey() []byte  { return []byte("previous") }
func pendingKey() []byte   { return []byte("pending") }
func reportsKey() []byte   { return []byte("reports") }
func lookupsKey() []byte   { return []byte("lookups") }
func domainKey() []byte    { return []byte("directory") }
func idKey(id sadb.PairID) []byte {
	return binary.BigEndian.AppendUint64(nil, uint64(id))
}

// openStore opens or makes the state file and reads all of it. A file that is
// damaged is set aside under the name returned, and an empty one begun.
func openStore(path string, now time.Time) (s *store, k kept, damaged string, err error) {
	s, k, err = readStore(path)
	if err == nil {
		return s, k, "", nil
	}
	if errors.Is(err, bolterrors.ErrTimeout) {
		return nil, kept{}, "", fmt.Errorf("agent: open state %s: another ipsecagent uses it: stop that one, or choose another --state-dir", path)
	}
	if !errors.Is(err, errDamaged) {
		return nil, kept{}, "", fmt.Errorf("agent: open state %s: %w", path, err)
	}
	damaged = path + ".damaged-" + now.UTC().Format("20060102T150405")
	if err := os.Rename(path, damaged); err != nil {
		return nil, kept{}, "", fmt.Errorf("agent: set damaged state %s aside: %w", path, err)
	}
	if s, k, err = readStore(path); err != nil {
		return nil, kept{}, "", fmt.Errorf("agent: begin state %s: %w", path, err)
	}
	return s, k, damaged, nil
}

// errDamaged is a state file that is not what this program wrote.
var errDamaged = errors.New("the state file is damaged")

func readStore(path string) (s *store, k kept, err error) {
	// A damaged file can point beyond its end, where a mapped read faults.
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if r := recover(); r != nil {
			s, err = nil, fmt.Errorf("%w: %v", errDamaged, r)
		}
	}()
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{Timeout: openTimeout})
	if err != nil {
		return nil, kept{}, classify(err)
	}
	s = &store{db}
	if err := db.Update(makeBuckets); err == nil {
		err = db.View(func(tx *bbolt.Tx) error { return k.read(tx) })
		if err == nil {
			return s, k, nil
		}
	}
	db.Close()
	return nil, kept{}, fmt.Errorf("%w: %v", errDamaged, err)
}

// classify tells a file that is not a database from one that cannot be opened.
func classify(err error) error {
	var pathError *os.PathError
	if errors.Is(err, bolterrors.ErrTimeout) || errors.As(err, &pathError) {
		return err
	}
	return fmt.Errorf("%w: %v", errDamaged, err)
}

func makeBuckets(tx *bbolt.Tx) error {
	if _, err := tx.CreateBucketIfNotExists(stateBucket()); err != nil {
		return err
	}
	if _, err := tx.CreateBucketIfNotExists(modernBucket()); err != nil {
		return err
	}
	_, err := tx.CreateBucketIfNotExists(pairsBucket())
	return err
}

func (k *kept) read(tx *bbolt.Tx) error {
	state := tx.Bucket(stateBucket())
	if err := decode(state.Get(assignedKey()), &k.Assigned); err != nil {
		return err
	}
	if err := decode(state.Get(lastGoodKey()), &k.Last); err != nil {
		return err
	}
	if err := decode(state.Get(domainKey()), &k.Domain); err != nil {
		return err
	}
	if err := decode(state.Get(lookupsKey()), &k.Lookups); err != nil {
		return err
	}
	if err := errors.Join(decode(state.Get(previousKey()), &k.Previous), decode(state.Get(pendingKey()), &k.Pending), decode(state.Get(reportsKey()), &k.Reports)); err != nil {
		return err
	}
	if err := k.readModern(tx.Bucket(modernBucket())); err != nil {
		return err
	}
	return tx.Bucket(pairsBucket()).ForEach(func(_, v []byte) error {
		var r pairRecord
		if err := json.Unmarshal(v, &r); err != nil {
			return err
		}
		p, err := r.pair()
		if err == nil {
			k.Pairs = append(k.Pairs, p)
		}
		return err
	})
}

func (k *kept) readModern(b *bbolt.Bucket) error {
	k.Modern = map[string]time.Time{}
	return b.ForEach(func(identity, v []byte) error {
		var at time.Time
		err := json.Unmarshal(v, &at)
		k.Modern[string(identity)] = at
		return err
	})
}

func decode[T any](data []byte, into **T) error {
	if data == nil {
		return nil
	}
	*into = new(T)
	return json.Unmarshal(data, *into)
}

func (s *store) close() error { return s.db.Close() }

// assign keeps what is assigned and, unless nil, the last good policy. With it
// nothing waits to be confirmed any more.
func (s *store) assign(as assignment, last *lastGood) error {
	return s.update(func(tx *bbolt.Tx) error {
		b := tx.Bucket(stateBucket())
		if err := errors.Join(put(b, assignedKey(), as), b.Delete(pendingKey())); err != nil {
			return err
		}
		if last == nil {
			return b.Delete(lastGoodKey())
		}
		return put(b, lastGoodKey(), last)
	})
}

// keepPending keeps that a policy waits to be confirmed; nil: none does.
func (s *store) keepPending(p *pendingMark) error { return keepOrForget(s, pendingKey(), p) }

// keepDirectory keeps what a directory assigned; nil: it assigns nothing.
func (s *store) keepDirectory(last *lastGood) error { return keepOrForget(s, domainKey(), last) }

// keepPrevious keeps one step back; nil: there is none.
func (s *store) keepPrevious(p *previous) error { return keepOrForget(s, previousKey(), p) }

// keepReports keeps what report mode has let pass; nil: it has ended.
func (s *store) keepReports(k *keptReports) error { return keepOrForget(s, reportsKey(), k) }

func keepOrForget[T any](s *store, key []byte, v *T) error {
	return s.update(func(tx *bbolt.Tx) error {
		b := tx.Bucket(stateBucket())
		if v == nil {
			return b.Delete(key)
		}
		return put(b, key, v)
	})
}

// keepLookups keeps what names and sets stand for.
func (s *store) keepLookups(l lookups) error {
	return s.update(func(tx *bbolt.Tx) error { return put(tx.Bucket(stateBucket()), lookupsKey(), l) })
}

// write makes pairs the pairs the store holds, and remembers when identities
// were last met with modern methods; zero: it forgets them.
func (s *store) write(pairs []sadb.Pair, modern map[string]time.Time) error {
	return s.update(func(tx *bbolt.Tx) error {
		if err := tx.DeleteBucket(pairsBucket()); err != nil {
			return err
		}
		b, err := tx.CreateBucket(pairsBucket())
		if err != nil {
			return err
		}
		for _, p := range pairs {
			if err := put(b, idKey(p.ID), recordOf(p)); err != nil {
				return err
			}
		}
		return writeModern(tx.Bucket(modernBucket()), modern)
	})
}

func writeModern(b *bbolt.Bucket, modern map[string]time.Time) error {
	for identity, at := range modern {
		err := b.Delete([]byte(identity))
		if !at.IsZero() {
			err = put(b, []byte(identity), at)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// update writes in one transaction. The database panics where it finds its
// pages inconsistent: that must not end the agent.
func (s *store) update(f func(*bbolt.Tx) error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("agent: write state: %w: %v", errDamaged, r)
		}
	}()
	if err := s.db.Update(f); err != nil {
		return fmt.Errorf("agent: write state: %w", err)
	}
	return nil
}

func put(b *bbolt.Bucket, key []byte, v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return b.Put(key, data)
}
