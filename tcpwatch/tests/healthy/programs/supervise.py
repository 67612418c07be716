"""Runs a command as systemd does a service, and restarts it now and then:
supervise.py BEGIN SIGNAL SECONDS,SECONDS PAUSE COMMAND...

At each of the times, in seconds after BEGIN, it sends the signal, waits for the end of the command,
and starts it anew after PAUSE."""
import signal
import subprocess
import sys
import time

begin = time.monotonic() + float(sys.argv[1])
number = getattr(signal, "SIG" + sys.argv[2])
times = [float(seconds) for seconds in sys.argv[3].split(",")]
pause, command = float(sys.argv[4]), sys.argv[5:]
for seconds in [*times, float("inf")]:
    service = subprocess.Popen(command)
    while time.monotonic() < begin + seconds:
        if service.poll() is not None:
            sys.exit(f"the service has ended with {service.returncode}")
        time.sleep(0.1)
    service.send_signal(number)
    service.wait()
    time.sleep(pause)
