package gss

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"sync"
	"time"
)

// Bounds of the replay cache. An entry lives for at most twice the skew, so
// that the whole holds some 50 new contexts per second. One client cannot fill
// it for the others.
const (
	maxSeen       = 1 << 15
	maxPerClient  = 1 << 11
	sweepInterval = 10 * time.Second
)

// ReplayID stands for one authenticator.
type ReplayID [sha256.Size]byte

// replayID hashes what makes an authenticator unique: client and realm, its
// time, and its sealed octets. The service is not part of it: its name stands
// in clear and can be rewritten, while the sealed octets differ for each
// service already.
func (r *request) replayID() ReplayID {
	h := sha256.New()
	client := r.client.String()
	h.Write(binary.BigEndian.AppendUint32(nil, uint32(len(client))))
	h.Write([]byte(client))
	h.Write(binary.BigEndian.AppendUint64(nil, uint64(r.ctime.Unix())))
	h.Write(binary.BigEndian.AppendUint32(nil, uint32(r.cusec)))
	h.Write(r.sealed)
	return ReplayID(h.Sum(nil))
}

// clientTag stands for a client in the cache.
type clientTag [8]byte

func tagOf(client Principal) clientTag {
	sum := sha256.Sum256([]byte(client.String()))
	return clientTag(sum[:8])
}

// seen is one entry: until when an authenticator would pass the check of its
// time, and whose it is.
type seen struct {
	until  int64 // Unix seconds
	client clientTag
}

// ReplayCache remembers the authenticators that were used. With a file it
// survives a restart; the file belongs to one process. It may be used by
// several goroutines, for acceptors run in a pool of workers and each needs
// its answer before it goes on.
type ReplayCache struct {
	mu      sync.Mutex
	log     *replayLog // nil: in memory only
	entries map[ReplayID]seen
	clients map[clientTag]int
	// floor: authenticators up to this time cannot be vouched for.
	floor   time.Time
	swept   time.Time
	warning string
}

// NewReplayCache returns one that forgets when the process ends.
func NewReplayCache() *ReplayCache {
	return &ReplayCache{entries: map[ReplayID]seen{}, clients: map[clientTag]int{}}
}

// OpenReplayCache returns one that is kept in a file, which is made if need
// be. A damaged file is set aside under the same name with ".damaged" behind
// it; then every authenticator that may have been in it is refused, which is
// all for the time of DefaultSkew, and Warning says so.
func OpenReplayCache(path string, now time.Time) (*ReplayCache, error) {
	c := NewReplayCache()
	records, damage, err := readReplayLog(path)
	if err != nil {
		return nil, fmt.Errorf("gss: open replay cache: %w", err)
	}
	if damage != nil {
		if err := setAside(path); err != nil {
			return nil, fmt.Errorf("gss: set damaged replay cache aside: %w", err)
		}
		c.floor = now.Add(DefaultSkew)
		c.warning = fmt.Sprintf("the replay cache %s was damaged (%v) and is now %s%s; Kerberos authentications are refused until %s",
			path, damage, path, damagedSuffix, c.floor.Format(time.TimeOnly))
	}
	for id, s := range records {
		if s.until >= now.Unix() {
			c.put(id, s)
		}
	}
	if c.log, err = writeReplayLog(path, c.entries); err != nil {
		return nil, fmt.Errorf("gss: open replay cache: %w", err)
	}
	return c, nil
}

// Warning says what was wrong with the file; empty: nothing.
func (c *ReplayCache) Warning() string { return c.warning }

// Close closes the file. Nothing is accepted any more.
func (c *ReplayCache) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.log == nil {
		return nil
	}
	return c.log.close()
}

// Use takes note of a verified authenticator of the time ctime. ErrReplay:
// it was used before. ErrReplayCache: nobody can tell, or there is no room to
// remember it; both refuse.
func (c *ReplayCache) Use(id ReplayID, client Principal, ctime, now time.Time, skew time.Duration) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !ctime.After(c.floor) {
		return fmt.Errorf("%w: what was used before %s is not known", ErrReplayCache, c.floor.Format(time.TimeOnly))
	}
	c.sweep(now)
	if _, used := c.entries[id]; used {
		return fmt.Errorf("%w (client %s)", ErrReplay, client)
	}
	s := seen{ctime.Add(skew).Unix() + 1, tagOf(client)}
	if len(c.entries) >= maxSeen || c.clients[s.client] >= maxPerClient {
		return fmt.Errorf("%w: %d contexts in %s (%d of %s)", ErrReplayCache,
			len(c.entries), 2*skew, c.clients[s.client], client)
	}
	if err := c.record(id, s); err != nil {
		return fmt.Errorf("%w: %w", ErrReplayCache, err)
	}
	c.put(id, s)
	return nil
}

// record appends to the file and rewrites it once most of it is history.
func (c *ReplayCache) record(id ReplayID, s seen) error {
	if c.log == nil {
		return nil
	}
	if c.log.records >= 2*maxSeen {
		fresh, err := writeReplayLog(c.log.path, c.entries)
		if err != nil {
			return err
		}
		c.log.close()
		c.log = fresh
	}
	return c.log.append(id, s)
}

func (c *ReplayCache) put(id ReplayID, s seen) {
	if _, have := c.entries[id]; !have {
		c.entries[id] = s
		c.clients[s.client]++
	}
}

// sweep forgets what the check of the time refuses by now.
func (c *ReplayCache) sweep(now time.Time) {
	if d := now.Sub(c.swept); d.Abs() < sweepInterval {
		return
	}
	c.swept = now
	for id, s := range c.entries {
		if s.until >= now.Unix() {
			continue
		}
		delete(c.entries, id)
		if c.clients[s.client]--; c.clients[s.client] == 0 {
			delete(c.clients, s.client)
		}
	}
}
