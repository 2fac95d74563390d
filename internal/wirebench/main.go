// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"runtime/pprof"
	"time"

	"github.com/spf13/pflag"
)

func main() {
	// A child runs this binary. Its first argument selects the server.
	if len(os.Args) > 2 && os.Args[1] == childMark {
		if err := serveChild(os.Args[2:]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	var o options
	only := pflag.String("only", "", "run only the rows whose name matches this regular expression")
	pflag.IntVar(&o.rounds, "rounds", 5, "rounds; a row is the median of them")
	pflag.DurationVar(&o.length, "for", 2*time.Second, "time of one row in one round")
	pflag.StringVar(&o.redis, "redis", "", "address of a Redis server to compare with")
	pflag.StringVar(&o.profiles, "profiles", "", "directory for CPU profiles of this process and of the nodes")
	pflag.StringVar(&o.gubernator, "gubernator", "", "path of the gubernator daemon to compare with; see gubernator/")
	pflag.Parse()
	var err error
	if o.only, err = regexp.Compile(*only); err != nil {
		fmt.Fprintln(os.Stderr, "--only:", err)
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// profile writes a CPU profile of this process until it is stopped, unless dir is
// empty.
func profile(dir, name string) (stop func(), err error) {
	if dir == "" {
		return func() {}, nil
	}
	f, err := os.Create(filepath.Join(dir, name+".pprof"))
	if err != nil {
		return nil, err
	}
	if err := pprof.StartCPUProfile(f); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return func() {
		pprof.StopCPUProfile()
		if err := f.Close(); err != nil {
			fmt.Fprintln(os.Stderr, "write profile:", err)
		}
	}, nil
}

type options struct {
	rounds     int
	length     time.Duration
	only       *regexp.Regexp
	redis      string
	gubernator string
	profiles   string
}

func run(ctx context.Context, o options) error {
	bench := &bench{options: o}
	defer bench.close()
	if err := bench.start(ctx); err != nil {
		return err
	}
	stop, err := profile(o.profiles, "client")
	if err != nil {
		return err
	}
	defer stop()
	if err := bench.measure(ctx); err != nil {
		return err
	}
	if err := bench.measureEdges(ctx); err != nil {
		return err
	}
	bench.print(os.Stdout)
	bench.printEdges(os.Stdout)
	return nil
}
