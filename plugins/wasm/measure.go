package wasm

// region is code that is charged for at once, where it begins. If it is entered
// all of it is run, unless there is a trap.
type region struct {
	at     int // offset of where it begins
	cost   int64
	parent int   // the region that was entered before, once for each time this one is at the most
	loop   bool  // begins at a loop's head
	extra  int64 // of cost: what was taken over from regions that may not be entered
}

// scope is a block that is open while a body is measured.
type scope struct {
	op       byte
	before   int // the region the block stands in; dead if it is never reached
	lowest   int // scope that a branch from inside goes to, as its place in scopes
	targeted bool
}

// dead is the region of code that is never reached.
const dead = -1

// measure divides a body into regions. Regions are in the order of where they
// begin; those left with no cost, but for the first and loops, are taken out.
func (w *writer) measure(b *body) {
	w.regions = append(w.regions[:0], region{at: b.code})
	if w.exact {
		w.each(b)
		return
	}
	w.scopes = append(w.scopes[:0], scope{op: opBlock, lowest: 0})
	w.rewind(b)
	now := 0
	begin := func(parent int, loop bool) int {
		if parent == dead {
			return dead
		}
		w.regions = append(w.regions, region{at: w.at, parent: parent, loop: loop})
		return len(w.regions) - 1
	}
	for w.at < b.end {
		i := w.instruction(b)
		if now != dead {
			w.regions[now].cost += w.price(i)
		}
		switch i.op {
		case opBlock, opLoop, opIf:
			w.scopes = append(w.scopes, scope{op: byte(i.op), before: now, lowest: len(w.scopes)})
			if i.op != opBlock {
				now = begin(now, i.op == opLoop)
			}
		case opElse:
			now = begin(w.scopes[len(w.scopes)-1].before, false)
		case opEnd:
			now = w.leave(now, begin)
		case opBr:
			w.branch(i.x)
			now = dead
		case opBrIf:
			w.branch(i.x)
			now = begin(now, false)
		case opBrTable:
			for _, l := range w.targets {
				w.branch(l)
			}
			now = dead
		case opReturn:
			w.branch(uint32(len(w.scopes) - 1))
			now = dead
		case opUnreachable:
			now = dead
		}
	}
	w.fold()
}

// each makes a region of every instruction, whatever stands around it: what the
// regions of measure are held against, in tests.
func (w *writer) each(b *body) {
	w.rewind(b)
	for head := false; w.at < b.end; {
		i := w.instruction(b)
		switch cost := w.price(i); {
		case i.at == b.code:
			w.regions[0].cost = cost
		case cost > 0 || head:
			w.regions = append(w.regions, region{at: i.at, cost: cost, loop: head})
		}
		head = i.op == opLoop
	}
}

func (w *writer) price(i instruction) int64 {
	cost := int64(operations[i.op].cost)
	if i.op == opCall && int(i.x) < w.m.imported || i.op == opCallIndirect && w.m.referred {
		cost += importFuel
	}
	return cost
}

// branch notes a branch to a label, seen from the innermost block. What it
// leaves without coming to its end is found out when the blocks end.
func (w *writer) branch(label uint32) {
	to := len(w.scopes) - 1 - int(label)
	w.scopes[to].targeted = true
	inner := &w.scopes[len(w.scopes)-1]
	inner.lowest = min(inner.lowest, to)
}

// leave closes the innermost block and returns the region of what follows.
func (w *writer) leave(now int, begin func(int, bool) int) int {
	place := len(w.scopes) - 1
	s := w.scopes[place]
	w.scopes = w.scopes[:place]
	if place == 0 {
		return dead
	}
	outer := &w.scopes[place-1]
	outer.lowest = min(outer.lowest, s.lowest)
	onlyFromBefore := s.op == opLoop || s.op == opBlock && !s.targeted
	switch {
	case s.before == dead || now == dead && onlyFromBefore:
		return dead
	case s.lowest >= place:
		return s.before // nothing inside leaves but by the end: who came in comes out
	case s.op == opBlock && !s.targeted:
		return now
	}
	return begin(s.before, false)
}

// fold adds small regions to the ones before them, which then charge for them
// whether they are entered or not, as far as slack lets them.
func (w *writer) fold() {
	for n := len(w.regions) - 1; n > 0; n-- {
		r := &w.regions[n]
		p := &w.regions[r.parent]
		if !r.loop && p.extra+r.cost <= slack {
			p.cost += r.cost
			p.extra += r.cost
			r.cost = 0
		}
	}
	kept := w.regions[:1]
	for _, r := range w.regions[1:] {
		if r.loop || r.cost > 0 {
			kept = append(kept, r)
		}
	}
	w.regions = kept
}
