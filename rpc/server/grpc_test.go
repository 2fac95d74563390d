// SPDX-License-Identifier: Apache-2.0

package server

import (
	"bytes"
	"context"
	"log/slog"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	reflectionpb "google.golang.org/grpc/reflection/grpc_reflection_v1"
	grpcstatus "google.golang.org/grpc/status"

	"github.com/bucketring/bucketring/rpc/pb"
)

func TestHealth(t *testing.T) {
	conn := serve(t, newNode(t), nil)
	for _, service := range []string{HealthReady, HealthLive} {
		got, err := healthpb.NewHealthClient(conn).Check(deadline(t), &healthpb.HealthCheckRequest{Service: service})
		if err != nil || got.Status != healthpb.HealthCheckResponse_SERVING {
			t.Errorf("health of %q = %v, %v, want SERVING", service, got, err)
		}
	}
}

func TestReflection(t *testing.T) {
	want := []string{"bucketring.v1.RateLimiter", "grpc.health.v1.Health", "grpc.reflection.v1.ServerReflection"}
	if diff := cmp.Diff(want, reflected(t, serve(t, newNode(t), nil))); diff != "" {
		t.Errorf("services differ (-want +got):\n%s", diff)
	}
}

// reflected asks for the services of a server.
func reflected(t *testing.T, conn *grpc.ClientConn) []string {
	t.Helper()
	stream, err := reflectionpb.NewServerReflectionClient(conn).ServerReflectionInfo(deadline(t))
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Send(&reflectionpb.ServerReflectionRequest{
		MessageRequest: &reflectionpb.ServerReflectionRequest_ListServices{},
	}); err != nil {
		t.Fatal(err)
	}
	answer, err := stream.Recv()
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.CloseSend(); err != nil {
		t.Error(err)
	}
	var names []string
	for _, s := range answer.GetListServicesResponse().GetService() {
		names = append(names, s.Name)
	}
	slices.Sort(names)
	return names
}

// broken panics in every call that it has.
type broken struct {
	pb.UnimplementedRateLimiterServer
}

func (broken) Check(context.Context, *pb.CheckRequest) (*pb.Decision, error) { panic("out of cheese") }

func TestPanic(t *testing.T) {
	var log bytes.Buffer
	client := pb.NewRateLimiterClient(serve(t, broken{}, slog.New(slog.NewTextHandler(&log, nil))))
	for range 2 { // the server survives
		_, err := client.Check(deadline(t), &pb.CheckRequest{Key: "k"})
		if st := grpcstatus.Convert(err); st.Code() != codes.Internal || st.Message() != "internal error" {
			t.Errorf("Check() = %v, want Internal", err)
		}
	}
	if got := strings.Count(log.String(), "handler panicked"); got != 2 {
		t.Errorf("two panics left %d log lines, want 2:\n%s", got, log.String())
	}
}
