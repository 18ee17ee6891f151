// An AXI4 memory with exactly defined timing, for simulation. BUS_BYTES of data a beat, INCR bursts.
//
// Cycles are counted by rising edges; a handshake "in cycle t" ends with the edge at its end.
// Without stalls:
// - AR and AW are accepted at once, up to 16 bursts of each that are not finished.
// - The first beat of a read burst accepted in cycle t is valid in cycle t + latency, or in the
//   cycle after the last beat of the burst before it was taken, whichever is later. The next beat
//   is valid in the cycle after one was taken. Data is what the memory holds one edge earlier.
// - Write data is accepted in each cycle from the one after its burst's address was accepted.
// - The response to a burst whose last beat was taken in cycle t is valid in cycle t + latency, or
//   in the cycle after the response before it was taken, whichever is later.
// Bursts of each kind are served in order. With stalls every channel pauses at random.
//
// Plusargs: +words=N (size in words), +latency=N (at least 2), +stall_seed=N (0: no stalls),
// +error_first=A +error_bytes=N +error_response=R (accesses to these bytes are answered with R:
// 2 SLVERR, 3 DECERR, and write nothing). Accesses outside of the memory are answered with DECERR.
// What the core must never do (another burst type or size, crossing 4 KB, WLAST out of place) ends
// the simulation with an error. The contents are read from IMAGE at the start, if that is not "",
// and written to FINAL when `dump` rises.

module memory #(
    parameter WORDS = 1 << 22,
    parameter BUS_BYTES = 4,
    parameter IMAGE = "memory.hex",
    parameter FINAL = "final.hex"
) (
    input  wire        clk,
    input  wire        rst,
    input  wire        dump,
    input  wire        arid,
    input  wire [31:0] araddr,
    input  wire [7:0]  arlen,
    input  wire [2:0]  arsize,
    input  wire [1:0]  arburst,
    input  wire        arvalid,
    output wire        arready,
    output reg         rid,
    output reg  [8*BUS_BYTES-1:0] rdata,
    output reg  [1:0]  rresp,
    output reg         rlast,
    output reg         rvalid,
    input  wire        rready,
    input  wire        awid,
    input  wire [31:0] awaddr,
    input  wire [7:0]  awlen,
    input  wire [2:0]  awsize,
    input  wire [1:0]  awburst,
    input  wire        awvalid,
    output wire        awready,
    input  wire [8*BUS_BYTES-1:0] wdata,
    input  wire [BUS_BYTES-1:0] wstrb,
    input  wire        wlast,
    input  wire        wvalid,
    output wire        wready,
    output reg         bid,
    output reg  [1:0]  bresp,
    output reg         bvalid,
    input  wire        bready
);
    localparam LOW = $clog2(BUS_BYTES);
    localparam BEAT_WORDS = BUS_BYTES / 4;
    reg [31:0] mem [0:WORDS-1];
    reg [31:0] words;
    reg [31:0] latency;
    reg [31:0] stall_seed;
    reg [31:0] error_first;
    reg [31:0] error_bytes;
    reg [31:0] error_response;

    initial begin
        if (!$value$plusargs("words=%d", words)) words = WORDS;
        if (!$value$plusargs("latency=%d", latency)) latency = 16;
        if (!$value$plusargs("stall_seed=%d", stall_seed)) stall_seed = 0;
        if (!$value$plusargs("error_first=%d", error_first)) error_first = 0;
        if (!$value$plusargs("error_bytes=%d", error_bytes)) error_bytes = 0;
        if (!$value$plusargs("error_response=%d", error_response)) error_response = 2;
        if (words > WORDS) $fatal(1, "+words must be at most %0d, not %0d", WORDS, words);
        if (latency < 2) $fatal(1, "+latency must be at least 2, not %0d", latency);
        if (IMAGE != "") $readmemh(IMAGE, mem, 0, words - 1);
    end

    // Stalls: one bit a channel of a 32-bit xorshift generator; none while the seed is zero.
    reg [31:0] random;
    reg        seeded;
    wire [31:0] random_1 = random ^ (random << 13);
    wire [31:0] random_2 = random_1 ^ (random_1 >> 17);
    wire [31:0] random_3 = random_2 ^ (random_2 << 5);
    wire [4:0] stall = seeded ? random[4:0] & random[12:8] : 5'd0;
    wire long_stall = seeded & random[20];
    always @(posedge clk)
        if (rst) begin
            random <= stall_seed;
            seeded <= stall_seed != 0;
        end else
            random <= random_3;

    function [1:0] response(input [31:0] address);
        if (address >= error_first && address - error_first < error_bytes)
            response = error_response[1:0];
        else if ((address >> 2) >= words)
            response = 2'd3;
        else
            response = 2'd0;
    endfunction

    task check(input [31:0] address, input [7:0] length, input [2:0] size, input [1:0] burst);
        begin
            if (size != LOW || burst != 1 || (address & (BUS_BYTES - 1)) != 0)
                $fatal(1, "burst must be aligned INCR of %0d-byte beats", BUS_BYTES);
            if ({20'd0, address[11:0]} + ((32'd1 + length) << LOW) > 4096)
                $fatal(1, "burst at %h of %0d beats must not cross 4 KB", address, length + 1);
        end
    endtask

    reg [63:0] now;
    always @(posedge clk) now <= rst ? 0 : now + 1;

    // Reads.
    reg [63:0] read_due [0:15];
    reg [31:0] read_address [0:15];
    reg [7:0]  read_length [0:15];
    reg        read_id [0:15];
    reg [4:0]  read_put, read_get;
    reg [8:0]  read_beat;
    integer word;
    wire [4:0] read_count = read_put - read_get;
    wire [3:0] reading = read_get[3:0];
    wire [31:0] read_at = read_address[reading] + ({23'd0, read_beat} << LOW);
    wire read_present = read_count != 0 && (read_beat != 0 || read_due[reading] <= now + 1)
                        && (!rvalid || rready) && !stall[0];
    assign arready = !read_count[4] && !stall[1] && !rst;
    always @(posedge clk) begin
        if (arvalid && arready) begin
            check(araddr, arlen, arsize, arburst);
            read_due[read_put[3:0]] <= now + {32'd0, latency};
            read_address[read_put[3:0]] <= araddr;
            read_length[read_put[3:0]] <= arlen;
            read_id[read_put[3:0]] <= arid;
            read_put <= read_put + 1;
        end
        if (rready)
            rvalid <= 0;
        if (read_present) begin
            rvalid <= 1;
            rid <= read_id[reading];
            rresp <= response(read_at);
            for (word = 0; word < BEAT_WORDS; word = word + 1)
                rdata[32 * word +: 32] <= response(read_at) == 0
                                          ? mem[(read_at >> 2) + word] : 32'hdeadbeef;
            rlast <= read_beat[7:0] == read_length[reading];
            read_beat <= read_beat + 1;
            if (read_beat[7:0] == read_length[reading]) begin
                read_beat <= 0;
                read_get <= read_get + 1;
            end
        end
        if (rst) begin
            read_put <= 0;
            read_get <= 0;
            read_beat <= 0;
            rvalid <= 0;
        end
    end

    // Writes.
    reg [31:0] write_address [0:15];
    reg [7:0]  write_length [0:15];
    reg        write_id [0:15];
    reg [4:0]  write_put, write_get;
    reg [8:0]  write_beat;
    reg [1:0]  write_response;
    reg [63:0] answer_due [0:15];
    reg [1:0]  answer_response [0:15];
    reg        answer_id [0:15];
    reg [4:0]  answer_put, answer_get;
    wire [4:0] write_count = write_put - write_get;
    wire [4:0] answer_count = answer_put - answer_get;
    wire [3:0] writing = write_get[3:0];
    wire [31:0] write_at = write_address[writing] + ({23'd0, write_beat} << LOW);
    wire [1:0] beat_response = write_response != 0 ? write_response : response(write_at);
    integer lane;
    assign awready = !write_count[4] && !stall[2] && !rst;
    assign wready = write_count != 0 && !answer_count[4] && !stall[3] && !rst;
    always @(posedge clk) begin
        if (awvalid && awready) begin
            check(awaddr, awlen, awsize, awburst);
            write_address[write_put[3:0]] <= awaddr;
            write_length[write_put[3:0]] <= awlen;
            write_id[write_put[3:0]] <= awid;
            write_put <= write_put + 1;
        end
        if (wvalid && wready) begin
            if (response(write_at) == 0)
                for (lane = 0; lane < BUS_BYTES; lane = lane + 1)
                    if (wstrb[lane])
                        mem[(write_at >> 2) + lane / 4][8 * (lane % 4) +: 8]
                            <= wdata[8 * lane +: 8];
            write_beat <= write_beat + 1;
            write_response <= beat_response;
            if (wlast != (write_beat[7:0] == write_length[writing]))
                $fatal(1, "WLAST must be high with the last beat of a burst only");
            if (wlast) begin
                write_beat <= 0;
                write_response <= 0;
                write_get <= write_get + 1;
                answer_due[answer_put[3:0]] <= now + {32'd0, latency};
                answer_response[answer_put[3:0]] <= beat_response;
                answer_id[answer_put[3:0]] <= write_id[writing];
                answer_put <= answer_put + 1;
            end
        end
        if (bready)
            bvalid <= 0;
        if (answer_count != 0 && answer_due[answer_get[3:0]] <= now + 1 && (!bvalid || bready)
            && !stall[4] && !long_stall) begin
            bvalid <= 1;
            bid <= answer_id[answer_get[3:0]];
            bresp <= answer_response[answer_get[3:0]];
            answer_get <= answer_get + 1;
        end
        if (rst) begin
            write_put <= 0;
            write_get <= 0;
            write_beat <= 0;
            write_response <= 0;
            answer_put <= 0;
            answer_get <= 0;
            bvalid <= 0;
        end
    end

    reg dumped;
    initial dumped = 0;
    always @(posedge clk)
        if (dump && !dumped) begin
            $writememh(FINAL, mem, 0, words - 1);
            dumped <= 1;
        end
endmodule
