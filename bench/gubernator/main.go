// SPDX-License-Identifier: Apache-2.0

// Command gubernator runs Gubernator to compare with it: one daemon, or a cluster in one
// process. It is a separate module, so that bucketring does not depend on Gubernator.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"time"

	guber "github.com/gubernator-io/gubernator/v2"
	"github.com/sirupsen/logrus"
)

func main() {
	first := flag.Int("port", 0, "first of two ports per daemon")
	daemons := flag.Int("daemons", 1, "size of the cluster")
	flag.Parse()
	if err := run(*first, *daemons); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(port, daemons int) error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	log := logrus.New()
	log.SetLevel(logrus.ErrorLevel)
	var peers []guber.PeerInfo
	var running []*guber.Daemon
	for i := range daemons {
		address := fmt.Sprintf("127.0.0.1:%d", port+2*i)
		starting, cancel := context.WithTimeout(ctx, 20*time.Second)
		d, err := guber.SpawnDaemon(starting, guber.DaemonConfig{
			Logger: log, GRPCListenAddress: address, HTTPListenAddress: fmt.Sprintf("127.0.0.1:%d", port+2*i+1),
			CacheSize: 1_000_000, PeerDiscoveryType: "none",
		})
		cancel()
		if err != nil {
			return err
		}
		defer d.Close()
		running, peers = append(running, d), append(peers, guber.PeerInfo{GRPCAddress: address})
	}
	for i, d := range running {
		own := append([]guber.PeerInfo(nil), peers...)
		own[i].IsOwner = true
		d.SetPeers(own)
	}
	if err := json.NewEncoder(os.Stdout).Encode(map[string]string{"grpc": peers[0].GRPCAddress}); err != nil {
		return err
	}
	<-ctx.Done()
	return nil
}
