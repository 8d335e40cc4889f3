package main

import (
	"fmt"
	"time"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"
)

// progress shows how far long work has come: a bar where a person watches a
// terminal, a plain line now and then where not, so that logs stay readable.
// It is used from one goroutine.
type progress struct {
	a     *app
	title string
	unit  func(int64) string
	total int64 // 0: not known

	bars *mpb.Progress
	bar  *mpb.Bar

	lastLine time.Time
	done     int64
}

// plainInterval is the time between two plain lines.
const plainInterval = 5 * time.Second

func (a *app) newProgress(title string, total int64, unit func(int64) string) *progress {
	p := &progress{a: a, title: title, unit: unit, total: total, lastLine: a.now()}
	if !a.outIsTerminal || !a.errIsTerminal {
		return p
	}
	p.bars = mpb.New(mpb.WithOutput(a.errOut), mpb.WithWidth(40), mpb.WithRefreshRate(100*time.Millisecond))
	p.bar = p.bars.AddBar(max(total, 1),
		mpb.PrependDecorators(decor.Name(title+" ")),
		mpb.AppendDecorators(decor.Any(func(s decor.Statistics) string { return p.amount(s.Current) }), decor.Name(" "), decor.Elapsed(decor.ET_STYLE_GO)),
		mpb.BarRemoveOnComplete(),
	)
	return p
}

func (p *progress) amount(done int64) string {
	if p.total <= 0 {
		return p.unit(done)
	}
	return fmt.Sprintf("%s of %s (%d%%)", p.unit(done), p.unit(p.total), 100*min(done, p.total)/p.total)
}

// set tells how much is done by now. It never goes back.
func (p *progress) set(done int64) {
	p.done = done
	if p.bar != nil {
		p.bar.SetCurrent(done)
		return
	}
	if now := p.a.now(); now.Sub(p.lastLine) >= plainInterval {
		p.lastLine = now
		p.a.note("%s: %s", p.title, p.amount(done))
	}
}

// grow corrects the total once it is known.
func (p *progress) grow(total int64) {
	p.total = total
	if p.bar != nil {
		p.bar.SetTotal(max(total, 1), false)
	}
}

// finish takes the bar away; results follow.
func (p *progress) finish() {
	if p.bar == nil {
		return
	}
	p.bar.Abort(true)
	p.bars.Wait()
}
