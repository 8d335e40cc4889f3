package harness

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/firnlog/firn/integration/fleet"
)

// cliLimit bounds a command.
const cliLimit = 2 * time.Minute

// Outcome is what a command did.
type Outcome struct {
	Stdout, Stderr string
	Code           int // of its exit
}

// Firn runs the firn program with arguments, as an operator at a broker would:
// the broker's addresses are the command's. It is for clusters on loopback.
func (c *Cluster) Firn(b *fleet.Broker, args ...string) Outcome {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), cliLimit)
	defer cancel()
	cmd := exec.CommandContext(ctx, Binary(c.t), args...)
	cmd.Env = append(os.Environ(), "FIRN_ADMIN="+b.Admin, "FIRN_BOOTSTRAP_SERVER="+b.Kafka)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	var failed *exec.ExitError
	if err != nil && !errors.As(err, &failed) || ctx.Err() != nil {
		c.t.Fatalf("firn %s: %v, %v: %s", strings.Join(args, " "), err, context.Cause(ctx), stderr.String())
	}
	return Outcome{Stdout: stdout.String(), Stderr: stderr.String(), Code: cmd.ProcessState.ExitCode()}
}

// MustFirn is Firn for a command that must succeed; it returns what it wrote to
// its standard output.
func (c *Cluster) MustFirn(b *fleet.Broker, args ...string) string {
	c.t.Helper()
	o := c.Firn(b, args...)
	if o.Code != 0 {
		c.t.Fatalf("firn %s: exit code %d: %s%s", strings.Join(args, " "), o.Code, o.Stdout, o.Stderr)
	}
	return o.Stdout
}
