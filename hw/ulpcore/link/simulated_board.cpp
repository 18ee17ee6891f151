// A board in simulation: its UART is a pseudo-terminal, whose name is printed on the first line.
//
// Arguments: cycles a bit; one of so many bytes damaged (0 for none); seed; bytes after which the
// board is unplugged (0 for never); file for the counts of faults. Damage is, with the same
// probability, a byte changed, lost, doubled, or a byte from nowhere, in either direction.
// The simulation ends with SIGTERM, or when its standard input is closed.

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <termios.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <deque>
#include <random>

#include "Vtop.h"
#include "verilated.h"

namespace {

volatile sig_atomic_t stopped = 0;
void stop(int) { stopped = 1; }

struct Faults {
    enum Kind { changed, lost, doubled, invented, kinds };
    unsigned long one_of, unplugged_after, counts[kinds] = {}, bytes = 0;
    std::mt19937_64 source;

    // What becomes of a byte on its way.
    void pass(uint8_t byte, std::deque<uint8_t>& out) {
        bytes++;
        if (!one_of || source() % one_of) {
            out.push_back(byte);
            return;
        }
        const auto kind = static_cast<Kind>(source() % kinds);
        counts[kind]++;
        const auto any = static_cast<uint8_t>(source());
        if (kind == changed) byte ^= any % 255 + 1;
        if (kind == invented) out.push_back(any);
        if (kind != lost) out.push_back(byte);
        if (kind == doubled) out.push_back(byte);
    }

    void report(const char* name) const {
        FILE* file = fopen(name, "w");
        if (!file) return;
        fprintf(file, "{\"bytes\": %lu, \"changed\": %lu, \"lost\": %lu, \"doubled\": %lu, "
                "\"invented\": %lu}\n", bytes, counts[changed], counts[lost], counts[doubled],
                counts[invented]);
        fclose(file);
    }
};

// Bytes as bits on a line, and back.
struct Line {
    int divisor, timer = 0, bits = 0;
    unsigned shift = 0;

    bool idle() const { return bits == 0; }

    bool drive(std::deque<uint8_t>& bytes) {
        if (timer == 0 && bits == 0 && !bytes.empty()) {
            shift = 0x200u | bytes.front() << 1;
            bytes.pop_front();
            bits = 10;
        }
        if (bits == 0) return true;
        const bool level = shift & 1;
        if (++timer == divisor) {
            timer = 0;
            shift >>= 1;
            bits--;
        }
        return level;
    }

    // Whether a byte is complete; it is in `shift` then.
    bool sample(bool level) {
        if (bits == 0) {
            if (level) return false;
            bits = 9;
            timer = divisor + divisor / 2 - 1;
            return false;
        }
        if (timer-- > 0) return false;
        timer = divisor - 1;
        if (--bits > 0) {
            shift = shift >> 1 | level << 7;
            return false;
        }
        return level;
    }
};

int open_terminal() {
    const int terminal = posix_openpt(O_RDWR | O_NOCTTY);
    if (terminal < 0 || grantpt(terminal) || unlockpt(terminal)) return -1;
    const char* name = ptsname(terminal);
    // Held open, so that a host may come and go.
    const int other = open(name, O_RDWR | O_NOCTTY);
    termios settings;
    if (other < 0 || tcgetattr(other, &settings)) return -1;
    cfmakeraw(&settings);
    tcsetattr(other, TCSANOW, &settings);
    fcntl(terminal, F_SETFL, O_NONBLOCK);
    printf("%s\n", name);
    fflush(stdout);
    return terminal;
}

}  // namespace

int main(int count, char** arguments) {
    if (count != 6) return 2;
    const int divisor = atoi(arguments[1]);
    Faults faults;
    faults.one_of = strtoul(arguments[2], nullptr, 10);
    faults.source.seed(strtoull(arguments[3], nullptr, 10));
    faults.unplugged_after = strtoul(arguments[4], nullptr, 10);
    signal(SIGTERM, stop);
    signal(SIGINT, stop);

    Vtop top;
    top.receive = 1;
    top.rst = 1;
    for (int i = 0; i < 8; i++) { top.clk = i & 1; top.eval(); }
    top.rst = 0;

    const int terminal = open_terminal();
    if (terminal < 0) {
        perror("pseudo-terminal");
        return 1;
    }
    Line receive{divisor}, transmit{divisor};
    std::deque<uint8_t> to_board, to_host;
    long quiet = 0;
    while (!stopped) {
        // With nothing on the lines the board's time passes slowly, and costs no processor.
        const bool idle = quiet > 1000 && to_host.empty();
        pollfd ends[2] = {{terminal, POLLIN, 0}, {0, 0, 0}};
        poll(ends, 2, idle ? 1 : 0);
        if (ends[1].revents & (POLLHUP | POLLERR)) break;
        uint8_t bytes[256];
        if (to_board.empty()) {
            const ssize_t got = read(terminal, bytes, sizeof bytes);
            for (ssize_t i = 0; i < got; i++) faults.pass(bytes[i], to_board);
        }
        for (int cycle = 0; cycle < 512; cycle++) {
            const bool level = receive.drive(to_board);
            quiet = level && receive.idle() && transmit.idle() ? quiet + 1 : 0;
            top.receive = level;
            top.clk = 0;
            top.eval();
            if (transmit.sample(top.transmit)) faults.pass(transmit.shift, to_host);
            top.clk = 1;
            top.eval();
        }
        while (!to_host.empty()) {
            const uint8_t byte = to_host.front();
            if (write(terminal, &byte, 1) != 1) break;
            to_host.pop_front();
        }
        if (faults.unplugged_after && faults.bytes >= faults.unplugged_after) break;
        if (idle) faults.report(arguments[5]);
    }
    faults.report(arguments[5]);
    return 0;
}
