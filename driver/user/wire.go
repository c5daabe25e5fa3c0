package user

import (
	"fmt"
	"net/netip"

	"ipsecagent/driver"
	"ipsecagent/sadb"
)

// The messages on the socket between agent and data path: requests one way,
// replies and events the other, JSON in frames. Keys stand in them as plain
// bytes, and nowhere else.

// verb names a request.
type verb string

const (
	verbAttach       verb = "attach" // the first request: from now on this agent controls
	verbSetFilters   verb = "setFilters"
	verbPutFilter    verb = "putFilter"
	verbRemoveFilter verb = "removeFilter"
	verbAllocSPI     verb = "allocSPI"
	verbAddSA        verb = "addSA"
	verbDeleteSA     verb = "deleteSA"
	verbAbandon      verb = "abandon"
	verbState        verb = "state"
	verbSockets      verb = "sockets"  // instead of attaching: the answer is no frame, see lend
	verbTakeDown     verb = "takeDown" // instead of attaching: the data path ends, see TakeDown
)

// request carries one call of the Driver interface; ID is repeated in the reply.
type request struct {
	ID      uint64
	Verb    verb
	Filters []wireFilter `json:",omitempty"`
	// Base and Runs (setFilters): what is different from the list that the
	// session set before and whose number is Base; 0: from no filters at all.
	Base     uint64          `json:",omitempty"`
	Runs     []stretch       `json:",omitempty"`
	FilterID sadb.FilterID   `json:",omitempty"`
	Src, Dst netip.Addr      `json:",omitzero"`
	Proto    sadb.Proto      `json:",omitempty"`
	SA       *wireSA         `json:",omitempty"`
	SAID     sadb.SAID       `json:",omitzero"`
	Acquire  *driver.Acquire `json:",omitempty"`
	// Again (state): events were lost; unanswered Acquires are to come again.
	Again bool `json:",omitempty"`
}

// reply answers the request of the same ID. Error is empty on success.
type reply struct {
	ID    uint64
	Error string     `json:",omitempty"`
	SPI   sadb.SPI   `json:",omitempty"`
	Base  uint64     `json:",omitempty"` // the number of the list that is in force now
	State *wireState `json:",omitempty"`
	// Removed (takeDown): what is no longer in force, in words.
	Removed []string `json:",omitempty"`
}

// message is what the data path sends: a reply or an event.
type message struct {
	Reply *reply     `json:",omitempty"`
	Event *wireEvent `json:",omitempty"`
}

// wireEvent holds exactly one event.
type wireEvent struct {
	Acquire     *driver.Acquire     `json:",omitempty"`
	Expire      *driver.Expire      `json:",omitempty"`
	Used        *driver.Used        `json:",omitempty"`
	Moved       *driver.Moved       `json:",omitempty"`
	FilterEnded *driver.FilterEnded `json:",omitempty"`
	Tampered    *driver.Tampered    `json:",omitempty"`
	Resync      *driver.Resync      `json:",omitempty"`
}

func toWireEvent(e driver.Event) *wireEvent {
	switch e := e.(type) {
	case driver.Acquire:
		return &wireEvent{Acquire: &e}
	case driver.Expire:
		return &wireEvent{Expire: &e}
	case driver.Used:
		return &wireEvent{Used: &e}
	case driver.Moved:
		return &wireEvent{Moved: &e}
	case driver.FilterEnded:
		return &wireEvent{FilterEnded: &e}
	case driver.Tampered:
		return &wireEvent{Tampered: &e}
	case driver.Resync:
		return &wireEvent{Resync: &e}
	}
	return &wireEvent{Resync: &driver.Resync{Reason: fmt.Sprintf("an event of unknown type %T", e)}}
}

func (w wireEvent) event() (driver.Event, error) {
	switch {
	case w.Acquire != nil:
		return *w.Acquire, nil
	case w.Expire != nil:
		return *w.Expire, nil
	case w.Used != nil:
		return *w.Used, nil
	case w.Moved != nil:
		return *w.Moved, nil
	case w.FilterEnded != nil:
		return *w.FilterEnded, nil
	case w.Tampered != nil:
		return *w.Tampered, nil
	case w.Resync != nil:
		return *w.Resync, nil
	}
	return nil, fmt.Errorf("an event of unknown type")
}

// wireAddrs is one side of a selector: "any", "me", or From and To.
type wireAddrs struct {
	Kind     string
	From, To netip.Addr `json:",omitzero"`
}

func toWireAddrs(a sadb.Addrs) wireAddrs {
	if a.IsAny() {
		return wireAddrs{Kind: "any"}
	}
	if a.IsMe() {
		return wireAddrs{Kind: "me"}
	}
	from, to, _ := a.Bounds()
	return wireAddrs{"range", from, to}
}

func (w wireAddrs) addrs() (sadb.Addrs, error) {
	switch w.Kind {
	case "any":
		return sadb.AnyAddrs(), nil
	case "me":
		return sadb.Me(), nil
	case "range":
		if !w.From.IsValid() || w.From.BitLen() != w.To.BitLen() || w.To.Less(w.From) || w.From.Is4In6() || w.To.Is4In6() {
			return sadb.Addrs{}, fmt.Errorf("addresses %v-%v are no ascending range of one family", w.From, w.To)
		}
		return sadb.Range(w.From, w.To), nil
	}
	return sadb.Addrs{}, fmt.Errorf("addresses of unknown kind %q", w.Kind)
}

type wireSelector struct {
	Local, Remote           wireAddrs
	Proto                   uint8
	LocalPorts, RemotePorts sadb.Ports
	ICMPType, ICMPCode      sadb.Octets
}

func toWireSelector(s sadb.Selector) wireSelector {
	return wireSelector{
		Local: toWireAddrs(s.Local), Remote: toWireAddrs(s.Remote), Proto: s.Proto,
		LocalPorts: s.LocalPorts, RemotePorts: s.RemotePorts,
		ICMPType: s.ICMPType, ICMPCode: s.ICMPCode,
	}
}

func (w wireSelector) selector() (sadb.Selector, error) {
	local, err := w.Local.addrs()
	if err != nil {
		return sadb.Selector{}, err
	}
	remote, err := w.Remote.addrs()
	return sadb.Selector{
		Local: local, Remote: remote, Proto: w.Proto,
		LocalPorts: w.LocalPorts, RemotePorts: w.RemotePorts,
		ICMPType: w.ICMPType, ICMPCode: w.ICMPCode,
	}, err
}

// wireFilter is a filter with its selector spelled out: the outer field hides
// the embedded one.
type wireFilter struct {
	sadb.Filter
	Selector wireSelector
}

func toWireFilter(f sadb.Filter) wireFilter {
	return wireFilter{f, toWireSelector(f.Selector)}
}

func (w wireFilter) filter() (sadb.Filter, error) {
	sel, err := w.Selector.selector()
	if err != nil {
		return sadb.Filter{}, fmt.Errorf("filter %s: %w", w.ID, err)
	}
	if w.ID == "" || len(w.ID) > 64 {
		return sadb.Filter{}, fmt.Errorf("filter ID %.70q: not 1 to 64 bytes", string(w.ID))
	}
	f := w.Filter
	f.Selector = sel
	return f, nil
}

func toFilters(ws []wireFilter) ([]sadb.Filter, error) {
	out := make([]sadb.Filter, len(ws))
	for i, w := range ws {
		f, err := w.filter()
		if err != nil {
			return nil, err
		}
		out[i] = f
	}
	return out, nil
}

// wireSA is an association with selector and keys spelled out.
type wireSA struct {
	sadb.SA
	Selector        wireSelector
	EncKey, AuthKey []byte
}

func toWireSA(sa sadb.SA) wireSA {
	return wireSA{sa, toWireSelector(sa.Selector), sa.EncKey.Bytes(), sa.AuthKey.Bytes()}
}

// sa returns the association and overwrites the key bytes of w.
func (w wireSA) sa() (sadb.SA, error) {
	sel, err := w.Selector.selector()
	if err != nil {
		return sadb.SA{}, fmt.Errorf("association %s: %w", w.ID, err)
	}
	sa := w.SA
	sa.Selector = sel
	sa.EncKey, sa.AuthKey = sadb.NewSecret(w.EncKey), sadb.NewSecret(w.AuthKey)
	clear(w.EncKey)
	clear(w.AuthKey)
	return sa, nil
}

// wireState is a State; associations and filters are spelled out.
type wireState struct {
	driver.State
	SAs     []wireSAState
	Filters []wireFilterStat
}

type wireSAState struct {
	driver.SAState
	SA wireSA
}

type wireFilterStat struct {
	driver.FilterStat
	Filter wireFilter
}

func toWireState(s driver.State) *wireState {
	w := &wireState{State: s}
	for _, sa := range s.SAs {
		w.SAs = append(w.SAs, wireSAState{sa, toWireSA(sa.SA)})
	}
	for _, f := range s.Filters {
		w.Filters = append(w.Filters, wireFilterStat{f, toWireFilter(f.Filter)})
	}
	return w
}

func (w wireState) state() (driver.State, error) {
	s := w.State
	for _, sa := range w.SAs {
		got, err := sa.SA.sa()
		if err != nil {
			return driver.State{}, err
		}
		st := sa.SAState
		st.SA = got
		s.SAs = append(s.SAs, st)
	}
	for _, f := range w.Filters {
		got, err := f.Filter.filter()
		if err != nil {
			return driver.State{}, err
		}
		st := f.FilterStat
		st.Filter = got
		s.Filters = append(s.Filters, st)
	}
	return s, nil
}
